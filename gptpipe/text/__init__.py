"""Pure functions over text; no input or output."""
