-- Room in each page for the next version of a row that changes with every append.
ALTER TABLE documents SET (fillfactor = 50);
-- Ciphertext does not compress.
ALTER TABLE records ALTER COLUMN record SET STORAGE EXTERNAL;
ALTER TABLE objects ALTER COLUMN value SET STORAGE EXTERNAL;
