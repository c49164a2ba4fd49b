-- Written after every mart, like int_event_history.
-- depends_on: {{ ref('int_user_batches') }}
-- depends_on: {{ ref('fct_rejected_rows') }}
-- depends_on: {{ ref('dim_users') }}
{{ config(
    unique_key=['arrival_hour', 'file', 'row_number'],
    meta={'rewrites': [
        {'model': 'int_user_batches', 'by': ['arrival_hour']},
        {'model': 'int_user_outcomes', 'by': ['arrival_hour', 'file', 'row_number']},
    ]}
) }}
select
    arrival_hour,
    source,
    file,
    row_number,
    user_id,
    created_at,
    attributes,
    raw,
    outcome,
    reason
from {{ ref('int_user_outcomes') }}
