-- Written after every mart: a run that was killed finds, when it is repeated, the old rows of its batches here, and so
-- every user that they touch.
-- depends_on: {{ ref('fct_interactions') }}
-- depends_on: {{ ref('fct_user_texts') }}
-- depends_on: {{ ref('fct_rejected_rows') }}
-- depends_on: {{ ref('dim_items') }}
-- depends_on: {{ ref('dim_users') }}
{{ config(
    unique_key=['arrival_hour', 'file', 'row_number'],
    meta={'rewrites': [
        {'model': 'int_event_batches', 'by': ['arrival_hour']},
        {'model': 'int_event_outcomes', 'by': ['arrival_hour', 'file', 'row_number']},
    ]}
) }}
with raws as (
    select arrival_hour, file, row_number, raw
    from {{ ref('int_events_unioned') }}
    union all
    select arrival_hour, file, row_number, raw
    from {{ source('lake', 'int_event_history') }}
    where
        arrival_hour not in (select arrival_hour from {{ ref('int_event_batches') }})
        and event_key is not null
        and (user_id is null or user_id in (select user_id from {{ ref('int_touched_users') }}))
)

select
    outcomes.arrival_hour,
    outcomes.source,
    outcomes.file,
    outcomes.row_number,
    outcomes.event_key,
    outcomes.user_id,
    outcomes.item_id,
    outcomes.event_type,
    outcomes.event_ts,
    outcomes.value,
    outcomes.weight,
    outcomes.text,
    outcomes.given_session_id as session_id,
    outcomes.attributes,
    outcomes.deleted,
    raws.raw,
    outcomes.outcome,
    outcomes.reason,
    outcomes.excluded_at
from {{ ref('int_event_outcomes') }} as outcomes
inner join raws
    on
        outcomes.arrival_hour = raws.arrival_hour
        and outcomes.file = raws.file
        and outcomes.row_number = raws.row_number
