"""Maintenance: relaying and counting events, rescuing jobs, deleting what is old.

A file per duty; each is done by one process at a time.
"""

from .loop import MaintenanceLoop
from .once import MaintenanceReport, run_maintenance_once
from .passes import Pass
from .plan import MaintenanceDuty, MaintenanceParts
from .retention import RetentionLimits

__all__ = [
    "MaintenanceDuty",
    "MaintenanceLoop",
    "MaintenanceParts",
    "MaintenanceReport",
    "Pass",
    "RetentionLimits",
    "run_maintenance_once",
]
