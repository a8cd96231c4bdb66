"""What each command of `bench` prints."""
