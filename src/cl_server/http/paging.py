"""Pages of a list: `?page=` and `?page_size=`, and what an answer says about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query
from pydantic import BaseModel

__all__ = ["Page", "PageQuery", "Pagination", "paginate"]

DEFAULT_PAGE_SIZE = 20
MAX_PAGE_SIZE = 100

# Nobody turns this far; it keeps the offset within what a database counts with.
MAX_PAGE = 10_000_000


@dataclass(frozen=True)
class Page:
    """Which part of a list was asked for.

    Attributes:
        number: The page, from 1.
        size: How many items are on it.
    """

    number: int
    size: int

    @property
    def offset(self) -> int:
        """How many items come before it."""
        return (self.number - 1) * self.size


class Pagination(BaseModel):
    """Where in the list a page is."""

    page: int
    page_size: int
    total_items: int
    total_pages: int
    has_next: bool
    has_prev: bool


def paginate(page: Page, total_items: int) -> Pagination:
    """Return what an answer says about its page."""
    total_pages = -(-total_items // page.size)
    return Pagination(
        page=page.number,
        page_size=page.size,
        total_items=total_items,
        total_pages=total_pages,
        has_next=page.number < total_pages,
        has_prev=page.number > 1,
    )


def _page(
    page: Annotated[int, Query(ge=1, le=MAX_PAGE, description="From 1.")] = 1,
    page_size: Annotated[
        int, Query(ge=1, le=MAX_PAGE_SIZE, description="Items on a page.")
    ] = DEFAULT_PAGE_SIZE,
) -> Page:
    return Page(page, page_size)


PageQuery = Annotated[Page, Depends(_page)]
