"""Reports: one self-contained HTML page for the result of a command (extra ``report``)."""
