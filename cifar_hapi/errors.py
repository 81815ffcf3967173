"""The errors a user can cause, each with the exit code that the command line answers with."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from cifar_hapi.printable import escaped


class CifarHapiError(Exception):
    """Base of the project's own errors; its text is one line: what, where, why and what to do."""

    exit_code = 1
    told = False  # by another process

    def __str__(self) -> str:
        # File names, keys and members of archives may hold anything, line ends and terminal commands too.
        return escaped(super().__str__())


class RecipeError(CifarHapiError):
    """A recipe, an override or an argument that cannot be."""

    exit_code = 2


class DataError(CifarHapiError):
    """Data that is missing, damaged, or not what it claims to be."""

    exit_code = 3


class RunError(CifarHapiError):
    """A run directory that is missing, damaged, in use, or of another make."""

    exit_code = 4


class LostProcess(CifarHapiError):
    """Another process that trains with this one has gone away, or does not answer; a resume goes on."""

    exit_code = 5


def did_you_mean(wrong: object, known: Iterable[str], section: str = "") -> str:
    """The end of an error's text: the nearest of the `known` names, or nothing where none is near.

    section: what stands before the name, as "optimizer.".
    """
    near = get_close_matches(str(wrong), list(known), n=1, cutoff=0.6)
    return f"; did you mean {section}{near[0]}?" if near else ""
