"""The zoo: one architecture a file, one variant a card. Imported as `benchbench.models`, a link to this folder."""
