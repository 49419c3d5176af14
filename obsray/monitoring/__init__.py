"""Rules, dashboards and deployment files for Prometheus and Grafana, made from one description and checked in.

Data and text only: nothing here runs in a session. ``files.py`` says which file is made of what.
"""
