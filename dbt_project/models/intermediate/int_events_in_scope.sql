with earlier as (
    select *
    from {{ source('lake', 'int_event_history') }}
    where event_key is not null
),

keys as (
    select event_key from {{ ref('int_events_judged') }}
    where reason is null
    union
    select event_key
    from earlier
    where
        user_id in (select user_id from {{ ref('int_touched_users') }})
        or arrival_hour in (select arrival_hour from {{ ref('int_event_batches') }})
)

select
    arrival_hour, source, file, row_number, event_key, user_id, item_id, event_type, event_ts, value, weight,
    session_id, attributes, deleted
from {{ ref('int_events_judged') }}
where reason is null
union all by name
select
    arrival_hour, source, file, row_number, event_key, user_id, item_id, event_type, event_ts, value, weight,
    session_id, attributes, deleted
from earlier
where
    event_key in (select event_key from keys)
    and arrival_hour not in (select arrival_hour from {{ ref('int_event_batches') }})
