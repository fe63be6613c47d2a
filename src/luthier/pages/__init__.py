"""HTML pages that open from disk without a network: one skeleton, tables, charts; the pages of runs from records."""
