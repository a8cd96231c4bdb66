"""Commands of `bench`, one file each: its flags (`add`), its handler (`run`) and what it prints."""
