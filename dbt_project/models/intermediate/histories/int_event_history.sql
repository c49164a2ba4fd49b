-- Written after every mart: a run that was killed finds, when it is repeated, the old rows of its batches here, and so
-- every user that they touch.
-- depends_on: {{ ref('int_event_batches') }}
-- depends_on: {{ ref('fct_interactions') }}
-- depends_on: {{ ref('fct_user_texts') }}
-- depends_on: {{ ref('fct_rejected_rows') }}
-- depends_on: {{ ref('dim_items') }}
-- depends_on: {{ ref('dim_users') }}
{{ config(
    unique_key=['arrival_hour', 'file', 'row_number'],
    meta={'long': ['text', 'raw'], 'rewrites': [
        {'model': 'int_event_batches', 'by': ['arrival_hour']},
        {'model': 'int_event_outcomes', 'by': ['arrival_hour', 'file', 'row_number']},
    ]}
) }}
select
    contents.arrival_hour,
    contents.source,
    contents.file,
    contents.row_number,
    outcomes.event_key,
    contents.user_id,
    contents.item_id,
    contents.event_type,
    contents.event_ts,
    contents.value,
    outcomes.weight,
    contents.text,
    contents.session_id,
    contents.attributes,
    contents.deleted,
    contents.raw,
    outcomes.outcome,
    outcomes.reason,
    outcomes.excluded_at
from {{ ref('int_event_contents') }} as contents
inner join {{ ref('int_event_outcomes') }} as outcomes
    on
        contents.arrival_hour = outcomes.arrival_hour
        and contents.file = outcomes.file
        and contents.row_number = outcomes.row_number
