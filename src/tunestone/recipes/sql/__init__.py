"""SQL queries over a small shop, graded by the rows they give."""
