"""The embedded Airflow: one machine, SQLite, everything under the home. For the demo, for tests and for looking round."""
