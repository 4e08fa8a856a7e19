"""Vectors in Qdrant: one collection behind an alias, points numbered by item_ix, the bias in the payload.

    fetched   the max(50, overfetch k) nearest by inner product that pass the limits, with their bias
    lists     product + bias, score descending, ties by smaller item_ix

Limits are sent as sets of point ids. A build fills a new collection, `<name>__<number>__<random>`, and moves
the alias to it in one step, so searches see the old collection or the new one; the old one is then deleted.
An index that was built or loaded asks its own collection alone; one that was only named asks the alias.

NOTE: the local mode of qdrant-client (`location=":memory:"`, or `path`) is a brute-force stand-in for tests
and small catalogues: exact, in Python, one call at a time. A server is given by `url`.
"""

import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any, Self, TypeVar

import numpy as np

from vitrina.ann import generations
from vitrina.ann.blocks import spans
from vitrina.ann.recall import MIN_RECALL, Recall, measure, passes, sample_queries
from vitrina.ann.rows import Rows, checked, checked_items, checked_limits, checked_queries
from vitrina.ann.topk import Jagged, TopK, empty_lists
from vitrina.errors import ArtifactError, ConfigError, NotFittedError, StateError, VitrinaError
from vitrina.schema import BoolArray, FloatArray, IntArray

Made = TypeVar("Made")
POINTS_A_CALL = 1_000
"""Points sent at a time."""
QUERIES_A_CALL = 64
"""Queries sent at a time."""
FETCH_AT_LEAST = 50
"""Points fetched for lists however short."""
POLL_S = 0.2
"""Seconds between looks at a server that is still indexing."""
Limits = Callable[[int], Any]
"""The filter of each query, None for none."""


@dataclass(kw_only=True, eq=False)
class QdrantIndex:
    """An index in a Qdrant server; see `vitrina.ann.qdrant`.

    Cost of a search: a round trip for 64 queries, and what the server takes.
    Use when: Qdrant is there already, or vectors outgrow one machine. See also: PgVectorIndex, FaissIndex.

    Example:
        >>> index = QdrantIndex(location=":memory:").build(np.eye(3, dtype=np.float32))
        >>> index.search(np.array([[1, 0.8, 0]]), k=2).item_ix
        array([[0, 1]], dtype=int32)
    """

    url: str | None = None
    """Of a server, as "http://localhost:6333"."""
    location: str | None = None
    """":memory:" for local mode without files."""
    path: str | None = None
    """Folder of local mode."""
    api_key: str | None = field(default=None, repr=False)
    """Of a server that asks for one. Never saved."""
    name: str = "vitrina_items"
    """The alias; collections are called after it."""
    n_links: int = 16
    """m of the HNSW graph."""
    ef_construction: int = 128
    """Candidates looked at for the links of a new node."""
    ef_search: int = 256
    """Candidates of a search; more where more are fetched."""
    overfetch: float = 2.0
    """Points fetched over k, from which the bias picks."""
    min_recall: float = MIN_RECALL
    """Recall below which a build drops the graph, so that the server searches exactly; 0 keeps it always."""
    build_timeout_s: float = 3600.0
    """Seconds that a build waits for the server to index."""
    seed: int = 0
    """Of the sample that recall is measured on."""

    def __post_init__(self) -> None:
        where = [given for given in (self.url, self.location, self.path) if given is not None]
        if len(where) != 1:
            raise ConfigError(
                f"QdrantIndex needs exactly one of url, location and path, got {len(where)}; "
                "give url='http://localhost:6333' or location=':memory:'"
            )
        if not self.name or "/" in self.name:
            raise ConfigError(f"QdrantIndex.name must not be empty nor hold a slash, got {self.name!r}")
        if self.overfetch < 1 or self.ef_search < 1:
            raise ConfigError(
                f"QdrantIndex needs overfetch >= 1 and ef_search >= 1, got {self.overfetch}, {self.ef_search}"
            )
        qdrant_client = _import_qdrant()
        self._models: Any = qdrant_client.models
        self._one_at_a_time = threading.RLock()
        with self._talking():
            self._client: Any = qdrant_client.QdrantClient(
                url=self.url,
                location=self.location,
                path=self.path,
                api_key=self.api_key,
                check_compatibility=False,
            )
        self._n_dims: int | None = None
        self._build: str | None = None  # the collection of this index; None takes that of the alias
        self.recall_: Recall | None = None

    def params(self) -> dict[str, Any]:
        """Constructor parameters by name, without the key."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "api_key"}

    def build(
        self,
        vector_ID: FloatArray,
        item_ix: IntArray | None = None,
        *,
        bias: FloatArray | None = None,
        queries: FloatArray | None = None,
    ) -> Self:
        """Replace the collection; see `Index.build`.

        Raises:
            StateError: the server cannot be reached or refuses; the old collection stays.
        """
        rows = checked(vector_ID, item_ix, bias)
        with self._talking():
            before = self._collection()
            number = 1 if before is None else int(before.removeprefix(f"{self.name}__").split("__")[0]) + 1
            new = self._create(f"{self.name}__{number}__", rows.n_dims)
            self._upload(new, rows)
            self._settle(new)
            self.recall_ = self._gate(new, rows, queries)
            self._point_alias_at(new, before)
            self._n_dims, self._build = rows.n_dims, new
            if before is not None:
                self._client.delete_collection(before)
        return self

    def search(
        self,
        query_BD: FloatArray,
        *,
        k: int,
        exclude: Jagged | None = None,
        allowed: BoolArray | None = None,
    ) -> TopK:
        """The k best items of each query, in lists k wide; see `Index.search`.

        Raises:
            ArtifactError: another build has taken the name; so do `add`, `remove` and `len`.
        """
        with self._talking():
            query_BD = checked_queries(query_BD, self._dims(query_BD), owner="the collection")
            exclude, allowed = checked_limits(len(query_BD), k, exclude, allowed)
            return self._of_build(lambda name: self._lists(name, query_BD, k, exclude, allowed))

    def add(self, item_ix: IntArray, vector_ND: FloatArray, *, bias: FloatArray | None = None) -> None:
        """Put items; see `Index.add`. More than 1,000 go in several calls, seen one after another."""
        with self._talking():
            n_dims = self._dims(vector_ND)
            rows = checked(vector_ND, checked_items(item_ix), bias, n_dims=n_dims, owner="the collection")
            self._of_build(lambda name: self._upload(name, rows))

    def remove(self, item_ix: IntArray) -> int:
        """Take items out; see `Index.remove`."""
        with self._talking():
            self._dims()
            items = np.unique(checked_items(item_ix)).tolist()
            return self._of_build(lambda name: self._delete(name, items))

    def __len__(self) -> int:
        with self._talking():
            self._dims()
            return self._of_build(lambda name: int(self._client.count(name, exact=True).count))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the parameters, not the points: they stay in Qdrant."""
        recall = None if self.recall_ is None else asdict(self.recall_)
        about = {"kind": "QdrantIndex", "params": self.params(), "recall": recall, "build": self._build}
        with generations.writing(path, about):
            pass

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, api_key: str | None = None) -> Self:
        """An index on the collection that was saved.

        Args:
            path: folder that `save` wrote.
            api_key: of a server that asks for one.

        Raises:
            ArtifactError: the folder is missing, corrupted, of another version or of another class, or
                another build has taken the name.
            NotFittedError: the collection is not there.
        """
        about = generations.read(path, lambda saved: saved.about, verify=True)
        if about["kind"] != cls.__name__:
            raise ArtifactError(f"{path} holds a {about['kind']}, not a {cls.__name__}; use `load_index`")
        try:
            index = cls(api_key=api_key, **about["params"])
            index.recall_ = None if about["recall"] is None else Recall(**about["recall"])
            index._build = about["build"]
        except (TypeError, KeyError) as error:
            raise ArtifactError(f"{path} cannot be read ({error}); save the index again") from error
        with index._talking():
            index._of_build(lambda _: index._dims())
        return index

    def close(self) -> None:
        """Let go of the server, or of the folder, which local mode locks."""
        self._client.close()

    @contextmanager
    def _talking(self) -> Iterator[None]:
        """One caller at a time in local mode, which knows no threads; errors of the client as sentences."""
        from qdrant_client.http.exceptions import ApiException

        with self._one_at_a_time if self.url is None else nullcontext():
            try:
                yield
            except VitrinaError:
                raise
            except (ApiException, RuntimeError, OSError, ValueError) as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                where = self.url or self.path or self.location
                raise StateError(
                    f"Qdrant at {where} cannot be reached or refused ({reason}); check it and its log"
                ) from error

    def _of_build(self, ask: Callable[[str], Made]) -> Made:
        """What `ask` makes of the collection of this index, or of the next if that replaced it meanwhile."""
        while True:
            asked = self._build or self.name
            try:
                return ask(asked)
            except Exception as error:  # of a server or of local mode, whose classes differ
                held = self._collection() if self._build else asked
                if held == asked or isinstance(error, VitrinaError):
                    raise
                if held != self._build:
                    raise ArtifactError(
                        f"{self.name!r} in Qdrant holds another build ({held or 'none'}); "
                        "give each source a name of its own, or build it again"
                    ) from None

    def _collection(self) -> str | None:
        """The collection behind the alias."""
        aliases = self._client.get_aliases().aliases
        return next((str(one.collection_name) for one in aliases if one.alias_name == self.name), None)

    def _dims(self, given: Any = None) -> int:
        """D of the collection; asked once, and again if a caller's differs and any build will do."""
        differs = given is not None and np.shape(given)[1:] != (self._n_dims,)
        if self._n_dims is None or (differs and self._build is None):
            name = self._build or self._collection()
            if name is None:
                raise NotFittedError(f"Qdrant has no {self.name!r}; call QdrantIndex.build(...) first")
            self._n_dims = int(self._client.get_collection(name).config.params.vectors.size)
        return self._n_dims

    def _create(self, prefix: str, n_dims: int) -> str:
        """An empty collection by a new name, in the place of one that a failed build left behind."""
        for one in self._client.get_collections().collections:
            if re.fullmatch(re.escape(prefix) + "[0-9a-f]{16}", one.name):
                self._client.delete_collection(one.name)
        name, models = prefix + secrets.token_hex(8), self._models
        self._client.create_collection(
            name,
            vectors_config=models.VectorParams(size=n_dims, distance=models.Distance.DOT),
            hnsw_config=models.HnswConfigDiff(m=self.n_links, ef_construct=self.ef_construction),
        )
        if self.url is not None:
            self._client.create_payload_index(name, "item", models.PayloadSchemaType.INTEGER)
        return name

    def _upload(self, name: str, rows: Rows) -> None:
        for lo, hi in spans(len(rows), POINTS_A_CALL):
            items, bias = rows.item_ix[lo:hi].tolist(), rows.bias[lo:hi].tolist()
            points = self._models.Batch(
                ids=items,
                vectors=rows.vector_ND[lo:hi].tolist(),
                payloads=[{"item": i, "bias": b} for i, b in zip(items, bias, strict=True)],
            )
            self._client.upsert(name, points=points, wait=True)

    def _delete(self, name: str, items: list[int]) -> int:
        """Take points out; returns how many were there."""
        there = self._client.retrieve(name, items, with_payload=False) if items else []
        if there:
            points = self._models.PointIdsList(points=[point.id for point in there])
            self._client.delete(name, points_selector=points, wait=True)
        return len(there)

    def _settle(self, name: str) -> None:
        """Wait until the server has indexed a collection."""
        until = time.monotonic() + self.build_timeout_s
        while self._client.get_collection(name).status != self._models.CollectionStatus.GREEN:
            if time.monotonic() > until:
                raise StateError(f"Qdrant has not indexed {name} in {self.build_timeout_s:g} s; see its log")
            time.sleep(POLL_S)

    def _gate(self, name: str, rows: Rows, queries: FloatArray | None) -> Recall | None:
        """Measure a collection, and take its graph away where it misses too much."""
        if not len(rows):
            return None
        sample_BD = sample_queries(rows, queries, seed=self.seed)
        search = partial(self._lists, name, exclude=None, allowed=None)
        recall = measure(search, rows, sample_BD, real=queries is not None)
        if not passes(recall, min_recall=self.min_recall, name=f"QdrantIndex({self.name})"):
            self._client.update_collection(name, hnsw_config=self._models.HnswConfigDiff(m=0))
            self._settle(name)
        return recall

    def _point_alias_at(self, new: str, before: str | None) -> None:
        models = self._models
        create = models.CreateAlias(collection_name=new, alias_name=self.name)
        steps = [models.CreateAliasOperation(create_alias=create)]
        if before is not None:
            gone = models.DeleteAlias(alias_name=self.name)
            steps = [models.DeleteAliasOperation(delete_alias=gone), *steps]
        self._client.update_collection_aliases(steps)

    def _lists(
        self, name: str, query_BD: FloatArray, k: int, exclude: Jagged | None, allowed: BoolArray | None
    ) -> TopK:
        """Lists of a collection; short ones are asked for again, exactly."""
        lists = empty_lists(len(query_BD), k)
        if not k:
            return lists
        limits = self._limits(exclude, allowed)
        for lo, hi in spans(len(query_BD), QUERIES_A_CALL):
            points_B = self._ask(name, query_BD, range(lo, hi), k, limits, exact=False)
            short = [lo + b for b, points in enumerate(points_B) if len(points) < k]
            if short and self.url is not None:
                for b, points in zip(
                    short, self._ask(name, query_BD, short, k, limits, exact=True), strict=True
                ):
                    points_B[b - lo] = points
            for b, points in zip(range(lo, hi), points_B, strict=True):
                item = np.array([point.payload["item"] for point in points], dtype=np.int32)
                bias = np.array([point.payload["bias"] for point in points], dtype=np.float32)
                score = np.array([point.score for point in points], dtype=np.float32) + bias
                best = np.lexsort((item, -score))[:k]
                lists.item_ix[b, : len(best)], lists.score[b, : len(best)] = item[best], score[best]
        return lists

    def _ask(
        self, name: str, query_BD: FloatArray, which: Sequence[int], k: int, limits: Limits, *, exact: bool
    ) -> list[list[Any]]:
        """Points for some of the queries."""
        models, n = self._models, max(FETCH_AT_LEAST, round(self.overfetch * k))
        # Local mode is exact by itself, and warns of parameters that it does not heed.
        effort = (
            None if self.url is None else models.SearchParams(hnsw_ef=max(self.ef_search, n), exact=exact)
        )
        requests = [
            models.QueryRequest(
                query=query_BD[b].tolist(), limit=n, filter=limits(b), params=effort, with_payload=True
            )
            for b in which
        ]
        return [list(answer.points) for answer in self._client.query_batch_points(name, requests)]

    def _limits(self, exclude: Jagged | None, allowed: BoolArray | None) -> Limits:
        """The filter of each query."""
        models = self._models
        must: list[Any] = []
        must_not: list[Any] = []
        if allowed is not None and 2 * np.count_nonzero(allowed) <= len(allowed):
            must.append(models.HasIdCondition(has_id=np.flatnonzero(allowed).tolist()))
        elif allowed is not None:
            must.append(models.FieldCondition(key="item", range=models.Range(lt=len(allowed))))
            must_not.append(models.HasIdCondition(has_id=np.flatnonzero(~allowed).tolist()))

        def limit(b: int) -> Any:
            own = [] if exclude is None else [models.HasIdCondition(has_id=exclude.of(b).tolist())]
            return models.Filter(must=must, must_not=[*must_not, *own]) if must or must_not or own else None

        return limit


def _import_qdrant() -> Any:
    """The module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import qdrant_client
    except ImportError as error:
        raise ConfigError(
            "QdrantIndex needs qdrant-client, which is not installed; pip install 'vitrina[qdrant]'"
        ) from error
    return qdrant_client
