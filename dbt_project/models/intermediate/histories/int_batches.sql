-- The very last: from here on the batches count as cleaned.
{{ config(unique_key=['landed_table', 'arrival_hour'], meta={'rewrites': 'all'}) }}
select
    landed_table,
    arrival_hour,
    landed as n_landed,
    fingerprint,
    rules
from {{ ref('audit_batches') }}
