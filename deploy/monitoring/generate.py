"""Makes what is derived from the sources here: the dashboard of Grafana, and the rules for the Prometheus operator.

`python deploy/monitoring/generate.py` writes both anew; a test checks that they are what this makes.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

FOLDER: Final = Path(__file__).parent
DASHBOARD: Final = FOLDER / "grafana" / "dashboards" / "stdweb.json"
OPERATOR_RULES: Final = FOLDER / "kubernetes" / "prometheusrule.yaml"

_WIDTH: Final = 24  # of Grafana's grid
_HEIGHT: Final = 8
_SOURCE: Final = {"type": "prometheus", "uid": "${source}"}
_WITHIN: Final = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """A panel: its title, its lines as pairs of expression and legend, and what it says to who asks."""

    title: str
    lines: tuple[tuple[str, str], ...]
    unit: str = "short"
    about: str = ""
    width: int = 8
    kind: str = "timeseries"


def _quantiles(metric: str, *shares: float) -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            f'histogram_quantile({share}, sum by (le, step) (rate({metric}_bucket{{step=~"$step"}}{_WITHIN})))',
            f"{{{{step}}}} {share:.0%}",
        )
        for share in shares
    )


def _state(title: str, expression: str, unit: str = "short") -> Panel:
    return Panel(title, ((expression, ""),), unit=unit, width=4, kind="stat")


SITE: Final = (
    _state("Gateways", 'sum(up{job="stdweb-gateway"})'),
    _state("Services", 'sum(up{job="stdweb-services"})'),
    _state("Brokers", 'sum(up{job="rabbitmq"})'),
    _state("Store answers", "max(stdweb_store_up)"),
    _state("Volume free", "min(stdweb_volume_free_bytes / stdweb_volume_size_bytes)", "percentunit"),
    _state("Alerts", 'count(ALERTS{alertstate="firing"}) or vector(0)'),
)
STEPS: Final = (
    Panel("Arrivals", (('stdweb:step_arrivals:rate5m{step=~"$step"} * 60', "{{step}}"),), about="A minute."),
    Panel("Done", (('stdweb:step_done:rate5m{step=~"$step"} * 60', "{{step}}"),), about="A minute."),
    Panel(
        "Failed, by cause",
        (
            (
                f'sum by (step, code) (rate(stdweb_step_failures_total{{step=~"$step"}}{_WITHIN})) * 60',
                "{{step}} {{code}}",
            ),
        ),
        about="A minute.",
    ),
    Panel(
        "Backlog",
        (
            ('stdweb:step_backlog:max{step=~"$step"}', "{{step}}"),
            ('max by (step) (stdweb_steps_waiting{step=~"$step"})', "{{step}} held back"),
        ),
        about="In the queue and held back by fair share.",
    ),
    Panel(
        "Longest wait", (('stdweb:step_oldest_wait_seconds:max{step=~"$step"}', "{{step}}"),), "s", "Of what waits now."
    ),
    Panel(
        "Wait",
        _quantiles("stdweb_queue_wait_seconds", 0.5, 0.9),
        "s",
        "From a step's message to the start of its process.",
    ),
    Panel("Run time", _quantiles("stdweb_step_seconds", 0.5, 0.9), "s"),
    Panel("Peak memory", _quantiles("stdweb_step_peak_memory_bytes", 0.9), "bytes"),
    Panel(
        "Attempts for each step that ended",
        (('stdweb:step_attempts:ratio5m{step=~"$step"}', "{{step}}"),),
        about="1 when all goes well; more when archives are away, or processes and workers die.",
    ),
    Panel(
        "Attempts given up, and processes that died",
        (
            (f'sum by (step) (increase(stdweb_step_retries_total{{step=~"$step"}}{_WITHIN}))', "{{step}} silent"),
            (f'sum by (step) (increase(stdweb_child_deaths_total{{step=~"$step"}}{_WITHIN}))', "{{step}} died"),
            (
                f'sum by (step) (increase(stdweb_step_messages_total{{step=~"$step",decision="taken over"}}{_WITHIN}))',
                "{{step}} taken over",
            ),
        ),
    ),
    Panel(
        "Workers",
        (
            ('count by (step) (stdweb_worker_slots{step=~"$step"} > 0)', "{{step}}"),
            ('stdweb:step_slots:sum{step=~"$step"}', "{{step}} slots"),
        ),
    ),
    Panel(
        "Slots at work",
        (('sum by (step) (stdweb_steps_running{step=~"$step"}) / (stdweb:step_slots:sum > 0)', "{{step}}"),),
        "percentunit",
    ),
)
BROKER: Final = (
    Panel("Messages ready", (("stdweb:queue_ready:max > 0", "{{queue}}"),)),
    Panel(
        "Messages being worked on", (("max by (queue) (rabbitmq_detailed_queue_messages_unacked) > 0", "{{queue}}"),)
    ),
    Panel("Consumers", (("stdweb:queue_consumers:max > 0", "{{queue}}"),)),
    Panel(
        "Messages a second",
        (
            (f"sum(rate(rabbitmq_global_messages_received_total{_WITHIN}))", "published"),
            (f"sum(rate(rabbitmq_global_messages_delivered_total{_WITHIN}))", "delivered"),
            (f"sum(rate(rabbitmq_global_messages_redelivered_total{_WITHIN}))", "delivered again"),
        ),
    ),
    Panel(
        "Memory",
        (
            ("rabbitmq_process_resident_memory_bytes", "{{instance}}"),
            ("rabbitmq_resident_memory_limit_bytes", "{{instance}} limit"),
        ),
        "bytes",
    ),
    Panel("Disk free", (("rabbitmq_disk_space_available_bytes", "{{instance}}"),), "bytes"),
)
GATEWAY: Final = (
    Panel("Requests a second", ((f"sum by (status) (rate(stdweb_request_seconds_count{_WITHIN}))", "{{status}}"),)),
    Panel(
        "Time to answer",
        tuple(
            (f"histogram_quantile({share}, sum by (le) (rate(stdweb_request_seconds_bucket{_WITHIN})))", f"{share:.0%}")
            for share in (0.5, 0.99)
        ),
        "s",
    ),
    Panel("Callbacks a second", ((f"sum by (outcome) (rate(stdweb_callbacks_total{_WITHIN}))", "{{outcome}}"),)),
    Panel(
        "Store: time of a use",
        tuple(
            (f"histogram_quantile({share}, sum by (le) (rate(stdweb_store_seconds_bucket{_WITHIN})))", f"{share:.0%}")
            for share in (0.5, 0.99)
        ),
        "s",
    ),
    Panel(
        "Store: uses a second",
        (
            (f"sum(rate(stdweb_store_seconds_count{_WITHIN}))", "all"),
            (f"sum(rate(stdweb_store_away_total{_WITHIN}))", "not answered"),
        ),
    ),
    Panel("Clients that follow a task", (("sum(stdweb_event_streams)", "clients"),)),
    Panel(
        "Shared volume",
        (("min(stdweb_volume_free_bytes)", "free"), ("max(stdweb_volume_reserve_bytes)", "reserve")),
        "bytes",
    ),
    Panel(
        "Pictures: time to make",
        (
            (
                f"histogram_quantile(0.9, sum by (le, kind) (rate(stdweb_render_seconds_bucket{_WITHIN})))",
                "{{kind}} 90%",
            ),
        ),
        "s",
    ),
    Panel(
        "Changes of images: time",
        (
            (
                f"histogram_quantile(0.9, sum by (le, request) (rate(stdweb_worker_request_seconds_bucket{_WITHIN})))",
                "{{request}} 90%",
            ),
        ),
        "s",
    ),
)
ARCHIVES: Final = (
    Panel(
        "Questions to archives a minute",
        ((f"sum by (archive, outcome) (rate(stdweb_archive_calls_total{_WITHIN})) * 60", "{{archive}} {{outcome}}"),),
    ),
    Panel(
        "Archives left alone",
        (("max by (archive) (stdweb_archive_paused_until_seconds) > bool time()", "{{archive}}"),),
        about="1 while nobody asks it, for it did not answer.",
    ),
    Panel(
        "Answers from the cache, a minute",
        ((f"sum by (archive) (rate(stdweb_archive_cache_hits_total{_WITHIN})) * 60", "{{archive}}"),),
    ),
)
PROCESSES: Final = (
    Panel("Cores", ((f"rate(process_cpu_seconds_total{_WITHIN})", "{{job}} {{service}} {{instance}}"),), width=12),
    Panel("Memory", (("process_resident_memory_bytes", "{{job}} {{service}} {{instance}}"),), "bytes", width=12),
)
ROWS: Final = (
    ("Site", SITE),
    ("Steps", STEPS),
    ("Broker", BROKER),
    ("Gateway, store and volume", GATEWAY),
    ("Archives", ARCHIVES),
    ("Our processes", PROCESSES),
)


def dashboard() -> dict[str, Any]:
    """Make the dashboard, in the form that Grafana exports."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS:
        panels.append(_row(len(panels) + 1, title, y))
        x, y = 0, y + 1
        for panel in row:
            height = _HEIGHT // 2 if panel.kind == "stat" else _HEIGHT
            if x + panel.width > _WIDTH:
                x, y = 0, y + height
            panels.append(_panel(len(panels) + 1, panel, {"x": x, "y": y, "w": panel.width, "h": height}))
            x += panel.width
        y += height
    return {
        "uid": "stdweb",
        "title": "STDWeb",
        "tags": ["stdweb"],
        "schemaVersion": 39,
        "editable": True,
        "timezone": "utc",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [_source(), _steps()]},
        "annotations": {"list": []},
        "panels": panels,
    }


def _row(number: int, title: str, y: int) -> dict[str, Any]:
    place = {"x": 0, "y": y, "w": _WIDTH, "h": 1}
    return {"id": number, "type": "row", "title": title, "collapsed": False, "gridPos": place, "panels": []}


def _panel(number: int, panel: Panel, place: dict[str, int]) -> dict[str, Any]:
    stat = panel.kind == "stat"
    options = (
        {"reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "none"}
        if stat
        else {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    )
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": options,
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _SOURCE,
                "expr": expression,
                "legendFormat": legend,
                "range": not stat,
                "instant": stat,
            }
            for index, (expression, legend) in enumerate(panel.lines)
        ],
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}


def _steps() -> dict[str, Any]:
    query = "label_values(stdweb_step_demand, step)"
    return {
        "name": "step",
        "label": "Step",
        "type": "query",
        "datasource": _SOURCE,
        "query": query,
        "refresh": 2,
        "multi": True,
        "includeAll": True,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def operator_rules() -> str:
    """Wrap the rules for the Prometheus operator."""
    groups = [
        group
        for path in sorted((FOLDER / "rules").glob("*.yml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    document = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "stdweb", "labels": {"app.kubernetes.io/part-of": "stdweb"}},
        "spec": {"groups": groups},
    }
    return "# Made from ../rules by ../generate.py.\n" + yaml.safe_dump(document, sort_keys=False, width=140)


if __name__ == "__main__":
    DASHBOARD.write_text(json.dumps(dashboard(), indent=2) + "\n")
    OPERATOR_RULES.write_text(operator_rules())
