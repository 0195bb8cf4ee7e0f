"""Reports of use: made of the ledger when asked for, and of each day when it has ended."""

from escalade_server.bootstrap.state import Ledger
from escalade_server.core.words import usd
from escalade_server.engine.engine import Engine
from escalade_server.engine.news import Entry, ReportNews
from escalade_server.engine.ports import Duty, Leadership
from escalade_server.engine.usage import UsageReport
from escalade_server.report.daily import DailyReports
from escalade_server.report.text import cost_nanos, saving
from escalade_server.report.usage import UsageReports
from escalade_server.telemetry import names
from escalade_server.telemetry.logs import Log


def reports_of(
    store: Ledger, engine: Engine, log: Log, zone: str, leads: Leadership
) -> tuple[UsageReports, DailyReports]:
    """Wire the reports of a store, whose days begin and end in ``zone``.

    A report of a day is one line of the log and one entry of the feed, which notices follow.
    """
    reports = UsageReports(store, engine.clock, lambda: engine.catalog, zone)

    def made(report: UsageReport) -> None:
        total = report.total
        detail = f"{usd(cost_nanos(report))}; {saving(report)}"
        log.info(
            names.REPORT_MADE,
            day=report.period,
            tasks=total.tasks,
            failed=total.failed,
            charged_nano_usd=total.charged_nanos,
            list_nano_usd=total.list_nanos,
            detail=detail,
        )
        store.record((Entry(engine.clock.now_ms(), ReportNews(report.period, detail)),))

    daily = DailyReports(
        reports,
        store,
        engine.clock,
        zone=zone,
        wanted=lambda: engine.catalog.rules.daily_report and leads.holds(Duty.REPORTS),
        made=made,
    )
    return reports, daily
