"""Pictures and HTML pages; they need the extra `report`."""

from cifar_hapi.report.batch_norm import batch_norm_section, check_page, write_batch_norm_page
from cifar_hapi.report.page import Section, render_page
from cifar_hapi.report.run_page import write_report

__all__ = [
    "Section",
    "batch_norm_section",
    "check_page",
    "render_page",
    "write_batch_norm_page",
    "write_report",
]
