{{ config(
    unique_key=['landed_table', 'arrival_hour', 'file', 'row_number'],
    meta={'long': ['raw'], 'rewrites': [
        {'model': 'stg_batches', 'by': ['landed_table', 'arrival_hour']},
        {'model': 'int_event_outcomes', 'by': ['landed_table', 'arrival_hour', 'file', 'row_number']},
    ]}
) }}
-- depends_on: {{ ref('stg_batches') }}
select
    events.landed_table, events.arrival_hour, events.file, events.row_number, events.source, events.reason, contents.raw
from {{ ref('int_event_outcomes') }} as events
inner join {{ ref('int_event_contents') }} as contents
    on
        events.arrival_hour = contents.arrival_hour
        and events.file = contents.file
        and events.row_number = contents.row_number
where events.outcome = 'rejected'
union all
select landed_table, arrival_hour, file, row_number, source, reason, raw
from {{ ref('int_item_outcomes') }}
where outcome = 'rejected'
union all
select landed_table, arrival_hour, file, row_number, source, reason, raw
from {{ ref('int_user_outcomes') }}
where outcome = 'rejected'
