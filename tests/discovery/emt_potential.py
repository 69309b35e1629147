"""The effective medium theory as a potential of the user's own."""


def make() -> object:
    """A calculator that knows seven metals."""
    from ase.calculators.emt import EMT

    return EMT()
