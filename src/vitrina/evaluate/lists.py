"""The lists that a model gave, as a table on disk."""

from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from vitrina.errors import StateError
from vitrina.feed import Feed


class ListWriter:
    """Appends feeds to one Parquet file: query_id, item_id, source, score, rank. None writes nothing.

    The file takes its name when it is complete; what an interrupted run leaves is named `.partial`.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._partial = None if path is None else path.with_name(path.name + ".partial")
        self._file: pq.ParquetWriter | None = None

    def __enter__(self) -> Self:
        return self

    def write(self, feed: Feed) -> None:
        """Append the lists of one batch.

        Raises:
            StateError: the disk refuses.
        """
        if self.path is None or self._partial is None:
            return
        table: pa.Table = feed.frame().to_arrow(compat_level=None)
        try:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = pq.ParquetWriter(self._partial, table.schema, compression="zstd")
            self._file.write_table(table.cast(self._file.schema))
        except OSError as error:
            reason = error.strerror or str(error)
            raise StateError(
                f"{self.path} could not be written ({reason}); free space or write elsewhere"
            ) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None or self.path is None or self._partial is None:
            return
        self._file.close()
        if error is None:
            self._partial.replace(self.path)
