"""The mathematics: closed forms, losses, augmentation, single steps."""
