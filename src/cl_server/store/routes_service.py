"""That the store serves, what it can do, and for how many."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from cl_ml_tools.jobs import MAX_TEXT_LENGTH
from cl_server.http.access import ADMIN, ANYONE, AccessPolicy, CurrentIdentity, requires
from cl_server.http.fields import body_of, fields_of

from .schemas import (
    Capabilities,
    ServiceState,
    StorableText,
    Task,
    TaskList,
    TaskSettingFields,
)
from .task_catalogue import TaskCatalogue

__all__ = ["service_routes"]

TaskType = Annotated[StorableText, Path(min_length=1, max_length=MAX_TEXT_LENGTH)]


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

    @router.put("/compute/tasks/{task_type}", openapi_extra=body_of(TaskSettingFields))
    @requires(ADMIN)
    def change_task(
        task_type: TaskType,
        fields: Annotated[TaskSettingFields, fields_of(TaskSettingFields)],
        identity: CurrentIdentity,
    ) -> Task:
        """Pause, resume or limit a task; what runs goes on."""
        return tasks.change_task(task_type, fields, identity)

    return router
