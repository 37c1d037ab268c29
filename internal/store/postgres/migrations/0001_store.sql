-- Who may append to a document, and where its log ends.
CREATE TABLE documents (
  document bytea  NOT NULL PRIMARY KEY,
  term     bigint NOT NULL,
  head     bigint NOT NULL
);

CREATE TABLE segments (
  document  bytea  NOT NULL,
  first_seq bigint NOT NULL,
  header    bytea  NOT NULL,
  PRIMARY KEY (document, first_seq)
);

-- Under its last number, so that the first one at or after n is the record that holds n.
CREATE TABLE records (
  document bytea  NOT NULL,
  last_seq bigint NOT NULL,
  record   bytea  NOT NULL,
  PRIMARY KEY (document, last_seq)
);

-- An object is cut into parts: databases that spread rows over machines want small ones.
CREATE TABLE objects (
  document bytea   NOT NULL,
  name     bytea   NOT NULL,
  part     integer NOT NULL,
  parts    integer NOT NULL,
  value    bytea   NOT NULL,
  PRIMARY KEY (document, name, part)
);

CREATE TABLE sealed_rows (
  kind      text   NOT NULL,
  partition bytea  NOT NULL,
  name      bytea  NOT NULL,
  revision  bigint NOT NULL,
  value     bytea  NOT NULL,
  PRIMARY KEY (kind, partition, name)
);
