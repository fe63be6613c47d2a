"""HTML pages that open from disk without a network: one skeleton, tables and charts; the pages of runs. Records in."""
