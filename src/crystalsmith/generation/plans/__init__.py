"""Plans: all that decides one crystal, as data; a source of plans a file, combined in one place."""
