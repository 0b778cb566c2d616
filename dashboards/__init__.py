"""Dashboards and alerts for Grafana and Prometheus, made from the table of metrics: `python -m dashboards` writes them.

panels.py and alerts.py say what is shown, graphite_queries.py and prometheus_queries.py how it is asked for, grafana.py
and alert_files.py how that is written down.
"""
