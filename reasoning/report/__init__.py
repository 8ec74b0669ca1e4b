"""What a run shows: summary table, findings, pictures and one static HTML page, from stored records alone."""

from reasoning.report.findings import findings
from reasoning.report.table import Table, summary_table, to_rich
from reasoning.report.write import ReportPaths, write_report

__all__ = ["ReportPaths", "Table", "findings", "summary_table", "to_rich", "write_report"]
