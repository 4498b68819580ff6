"""Reading X: one file for each kind of source, the checks, and one survey of the rows."""
