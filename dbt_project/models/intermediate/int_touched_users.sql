{{ config(post_hook="{{ remember_touched() }}") }}
with fresh as (
    select
        user_id,
        event_key
    from {{ ref('int_events_judged') }}
    where reason is null
),

earlier as (
    select
        user_id,
        event_key,
        arrival_hour
    from {{ source('lake', 'int_event_history') }}
    where event_key is not null
),

replaced as (
    select
        user_id,
        event_key
    from earlier
    where arrival_hour in (select arrival_hour from {{ ref('int_event_batches') }})
),

users as (
    select user_id from fresh
    union
    select user_id from replaced
    union
    -- Whoever else an event that comes or goes was ever delivered for.
    select user_id
    from earlier
    where
        event_key in (select event_key from fresh)
        or event_key in (select event_key from replaced)
    union
    select user_id from {{ source('touched', 'int_touched_users') }}
)

select user_id
from users
where user_id is not null
