"""CIF text to crystals: gemmi parses and knows the settings of the space groups; what they mean is decided here."""
