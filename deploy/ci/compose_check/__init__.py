"""Static checks of docker-compose.yml: `tree` reads the files, `shape`, `images` and `native` judge them, `self_test` breaks them."""
