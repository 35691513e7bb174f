"""Files in and out: NIfTI, BIDS names, tables, provenance, and writing all or nothing."""
