-- Written after every mart, like int_event_history.
-- depends_on: {{ ref('int_item_batches') }}
-- depends_on: {{ ref('fct_rejected_rows') }}
-- depends_on: {{ ref('dim_items') }}
{{ config(
    unique_key=['arrival_hour', 'file', 'row_number'],
    meta={'rewrites': [
        {'model': 'int_item_batches', 'by': ['arrival_hour']},
        {'model': 'int_item_outcomes', 'by': ['arrival_hour', 'file', 'row_number']},
    ]}
) }}
select
    arrival_hour,
    source,
    file,
    row_number,
    preference,
    item_id,
    kind,
    title,
    description,
    categories,
    creator_id,
    price,
    published_at,
    available_from,
    available_until,
    attributes,
    raw,
    outcome,
    reason
from {{ ref('int_item_outcomes') }}
