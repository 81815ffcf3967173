"""The page that a training writes at its end: by then the run is whole, and nothing here may lose it."""

from __future__ import annotations

import warnings

from cifar_hapi.data.image_set import ImageSet
from cifar_hapi.report.libraries import check_libraries
from cifar_hapi.report.run_page import write_report
from cifar_hapi.run import Run


def written_report(run: Run, images: ImageSet) -> str:
    """Where the page is, or how to get one where the extra is not installed; "" where a warning tells what went wrong.

    images: the run's test images.
    """
    try:
        check_libraries()
    except ImportError:
        return f"none; to get one: pip install 'cifar-hapi[report]' and cifar-hapi report {run.path}"
    try:
        return str(write_report(run, images=images))
    except Exception as error:  # noqa: BLE001  # whatever it is, hours of training are not to end in it
        why = " ".join(f"{type(error).__name__}: {error}".split())
        warnings.warn(f"run {run.path}: its report is not written: {why}", stacklevel=2)
        return ""
