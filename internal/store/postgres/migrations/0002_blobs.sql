-- An object that is in an object store: under which name there, and of how many bytes.
ALTER TABLE objects ADD COLUMN blob bytea;
ALTER TABLE objects ADD COLUMN blob_bytes bigint;

-- The blobs of a document, from before each is written until it is gone. State 0: it is
-- being written; 1: an object is in it; 2: nothing is, and it goes.
CREATE TABLE blobs (
  document bytea       NOT NULL,
  blob     bytea       NOT NULL,
  state    smallint    NOT NULL,
  since    timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (document, blob)
);

CREATE INDEX blobs_to_go ON blobs (state, since) WHERE state <> 1;
