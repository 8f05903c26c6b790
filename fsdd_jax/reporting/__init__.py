"""Pictures, tables, pages, and files for other tools."""
