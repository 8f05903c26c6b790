"""Programs that an export copies beside a set; they do without this package."""
