"""How lists are read: in pages."""

from __future__ import annotations

PAGE = 500
"""The most items of a page."""
PAGED = ("limit", "after")
"""The query parameters of a list."""
