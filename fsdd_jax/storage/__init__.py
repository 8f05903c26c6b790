"""What runs leave on disk: distilled sets, translators, caches."""
