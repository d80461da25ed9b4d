"""That the store serves, what it can do, and for how many."""

from __future__ import annotations

from fastapi import APIRouter

from cl_server.http.access import ANYONE, AccessPolicy, requires

from .schemas import Capabilities, ServiceState, TaskList
from .task_catalogue import TaskCatalogue

__all__ = ["service_routes"]


def service_routes(version: str, policy: AccessPolicy, tasks: TaskCatalogue) -> APIRouter:
    """Return the routes.

    Args:
        version: The program's.
        policy: What the operator opened.
        tasks: Which tasks there are.
    """
    router = APIRouter(tags=["service"])

    @router.get("/")
    @requires(ANYONE)
    def get_service() -> ServiceState:
        """Say that the store serves, and whether guests may read media."""
        return ServiceState(version=version, guestMode="on" if policy.guest_mode() else "off")

    @router.get("/compute")
    @requires(ANYONE)
    def get_compute() -> ServiceState:
        """Say the same at the address that clients use for compute."""
        return get_service()

    @router.get("/compute/capabilities")
    @requires(ANYONE)
    def get_capabilities() -> Capabilities:
        """Count the workers that live, and for each task type those that are free."""
        return tasks.count_idle_workers()

    @router.get("/compute/tasks")
    @requires("ai_inference_support")
    def list_tasks() -> TaskList:
        """List every task with its parameters, and whether a worker serves it."""
        return tasks.list_tasks()

    return router
