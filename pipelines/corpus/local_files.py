"""Files of this machine under whatever names they have. pyarrow takes names that are not UTF-8 as bytes only, and gives
none back; Python spells them with surrogates.
"""

from __future__ import annotations

import os
from typing import Any

from pyarrow import fs as pafs


class LocalFiles(pafs.LocalFileSystem):  # type: ignore[misc]  # untyped
    """pyarrow's own, where it is given paths."""

    def get_file_info(self, what: Any) -> Any:
        """As pyarrow's; a list of paths and a selector are taken too."""
        if isinstance(what, pafs.FileSelector):
            return super().get_file_info(what)
        return super().get_file_info(os.fsencode(what) if isinstance(what, str) else [os.fsencode(one) for one in what])

    def open_input_stream(self, path: str, *args: Any, **options: Any) -> Any:
        """As pyarrow's."""
        return super().open_input_stream(os.fsencode(path), *args, **options)

    def open_input_file(self, path: str) -> Any:
        """As pyarrow's."""
        return super().open_input_file(os.fsencode(path))

    def open_output_stream(self, path: str, *args: Any, **options: Any) -> Any:
        """As pyarrow's."""
        return super().open_output_stream(os.fsencode(path), *args, **options)

    def create_dir(self, path: str, *, recursive: bool = True) -> None:
        """As pyarrow's."""
        super().create_dir(os.fsencode(path), recursive=recursive)

    def move(self, source: str, target: str) -> None:
        """As pyarrow's."""
        super().move(os.fsencode(source), os.fsencode(target))

    def delete_file(self, path: str) -> None:
        """As pyarrow's."""
        super().delete_file(os.fsencode(path))
