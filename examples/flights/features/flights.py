"""What is known of a flight at its scheduled departure, beside the flight itself."""

from datetime import timedelta

from madang.data.features import FeatureView
from madang.data.features.windows import rolling

DELAY = {"mean": ("arr_delay", "mean"), "count": (None, "count")}


def delays(name: str, entity: tuple[str, ...], period: timedelta) -> FeatureView:
    """Arrival delays over the last `period`; a delay is known when the flight has arrived."""
    return rolling(
        name,
        source="arrivals",
        entity=entity,
        timestamp="arrived",
        aggregates={f"{name}_{key}": value for key, value in DELAY.items()},
        period=period,
    )


airport_now = delays("airport_now", ("origin",), timedelta(hours=2))
carrier_now = delays("carrier_now", ("carrier",), timedelta(hours=2))
route_now = delays("route_now", ("origin", "dest"), timedelta(hours=2))
carrier_usual = delays("carrier_usual", ("carrier",), timedelta(days=14))
route_usual = delays("route_usual", ("origin", "dest"), timedelta(days=14))

weather_now = FeatureView(
    name="weather_now",
    entity=("origin",),
    timestamp="observed",
    features=("temp", "dewp", "humid", "wind_dir", "wind_speed", "precip", "pressure", "visib"),
    ttl=timedelta(hours=3),
    sql="""SELECT origin, observed, temp, dewp, humid, wind_dir, wind_speed, precip, pressure, visib
           FROM weather""",
)

VIEWS = ["weather_now", "airport_now", "carrier_now", "route_now", "carrier_usual", "route_usual"]
