"""The errors a user can cause, each with the exit code that the command line answers with."""


class CifarHapiError(Exception):
    """Base of the project's own errors; its text is one line: what, where, why and what to do."""

    exit_code = 1


class RecipeError(CifarHapiError):
    """A recipe, an override or an argument that cannot be."""

    exit_code = 2


class DataError(CifarHapiError):
    """Data that is missing, damaged, or not what it claims to be."""

    exit_code = 3


class RunError(CifarHapiError):
    """A run directory that is missing, damaged, in use, or of another make."""

    exit_code = 4
