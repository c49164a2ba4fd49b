{{ config(
    unique_key=['landed_table', 'arrival_hour', 'file', 'row_number'],
    meta={'rewrites': [
        {'model': 'stg_batches', 'by': ['landed_table', 'arrival_hour']},
        {'model': 'int_event_outcomes', 'by': ['landed_table', 'arrival_hour', 'file', 'row_number']},
    ]}
) }}
-- depends_on: {{ ref('stg_batches') }}
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
    events.landed_table, events.arrival_hour, events.file, events.row_number, events.source, events.reason, raws.raw
from {{ ref('int_event_outcomes') }} as events
inner join raws
    on
        events.arrival_hour = raws.arrival_hour
        and events.file = raws.file
        and events.row_number = raws.row_number
where events.outcome = 'rejected'
union all
select landed_table, arrival_hour, file, row_number, source, reason, raw
from {{ ref('int_item_outcomes') }}
where outcome = 'rejected'
union all
select landed_table, arrival_hour, file, row_number, source, reason, raw
from {{ ref('int_user_outcomes') }}
where outcome = 'rejected'
