"""Options that several commands share, each declared once; a command names the parameter and its default."""

from __future__ import annotations

from typing import Annotated

import typer

from crystalsmith.cli._shared import model_names

RULES = "Elements and composition (kept by every crystal)"
SYMMETRY = "Symmetry (kept by every crystal)"
TARGETS = "Targets (of models that were fine-tuned on them)"

Model = Annotated[
    str | None,
    typer.Option(
        help="A bundled model (see: crystalsmith models list) or a model folder.",
        show_default="hull-tiny",
        autocompletion=model_names,
    ),
]
Steps = Annotated[
    int | None, typer.Option(help="Denoising steps; more are slower and better.", show_default="the model's")
]
Solver = Annotated[
    str | None,
    typer.Option(
        metavar="NAME[,KEY=VALUE]",
        help="multistep, predictor_corrector, ancestral, heun or published; with settings: multistep,churn=1.",
        show_default="the model's",
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1; for generate, untested, mps.")]
ChemicalSystem = Annotated[
    str | None,
    typer.Option(metavar="Li-Fe-O", help="Only these elements.", rich_help_panel=RULES),
]
RequireAll = Annotated[
    bool,
    typer.Option(
        "--require-all", help="Every element of the chemical system appears in each crystal.", rich_help_panel=RULES
    ),
]
Allow = Annotated[
    str | None, typer.Option(metavar="Li,Fe,O", help="Only elements of this list.", rich_help_panel=RULES)
]
Deny = Annotated[str | None, typer.Option(metavar="Pb,Cd", help="No element of this list.", rich_help_panel=RULES)]
RequiredElements = Annotated[
    str | None,
    typer.Option(metavar="Li,O", help="Each of these at least once in each crystal.", rich_help_panel=RULES),
]
DenyList = Annotated[
    str | None,
    typer.Option(
        metavar="scarce,toxic",
        help="No element of these lists: radioactive, noble, scarce, toxic.",
        rich_help_panel=RULES,
    ),
]
MaxHhi = Annotated[
    float | None,
    typer.Option(help="Only elements whose index of supply (HHI, up to 10000) is at most this.", rich_help_panel=RULES),
]
Prefer = Annotated[
    str | None,
    typer.Option(
        metavar="Li:3,Co:0.2", help="Factors on the odds of elements: a wish, no rule.", rich_help_panel=RULES
    ),
]
SpaceGroup = Annotated[
    str | None,
    typer.Option(
        metavar="225|Fm-3m|195-230|cubic|any|free",
        help="Crystals of these space groups, kept exactly; Wyckoff positions are drawn as known crystals have them.",
        show_default="the model's, or free",
        rich_help_panel=SYMMETRY,
    ),
]
Property = Annotated[
    list[str] | None,
    typer.Option(
        "--property",
        metavar="NAME=VALUE",
        help="Target of a property that the model knows; a,b,c are taken in turn, low..high is drawn from evenly "
        "(in the logarithm where the model takes it), Li-Fe-O is a set of elements. Repeatable.",
        rich_help_panel=TARGETS,
    ),
]
Guidance = Annotated[
    list[str] | None,
    typer.Option(
        metavar="G|NAME=G",
        help="How strongly targets are followed: 1 as learned, more overshoots, 0 not at all; for one property "
        "NAME=G. Anything but 0 and 1 doubles the work.",
        show_default="2",
        rich_help_panel=TARGETS,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as one JSON object.")]
