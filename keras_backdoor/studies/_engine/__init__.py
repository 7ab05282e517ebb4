"""How the cells of a study are run, kept and collected."""
