-- A user who does more within an hour than people do is a bot from the event on that shows it.
with counted as (
    select
        user_id,
        event_ts,
        count(*) over (
            partition by user_id
            order by event_ts
            range between interval 1 hour preceding and current row
        ) as events_within_an_hour
    from {{ ref('int_current_events') }}
)

select
    user_id,
    min(event_ts) as verdict_at
from counted
where events_within_an_hour > {{ var('bot_events_per_hour') }}
group by user_id
