-- Of the rows that are not rejected, as many are duplicates as there are rows beyond one an identity.
with accepted as (
    select
        count(*) as n_rows,
        count(distinct event_key) as n_events,
        count(*) filter (where outcome = 'duplicate') as n_duplicates
    from {{ ref('int_event_history') }}
    where outcome <> 'rejected'
),

-- An event whose last delivery is a bot's is not left by any row of another user.
of_bots as (
    select count(distinct event_key) as n_events
    from {{ ref('int_event_history') }}
    where
        event_key in (
            select event_key from {{ ref('int_event_history') }}
            where reason = 'bot'
        )
        and outcome = 'duplicate'
        and event_key not in (
            select event_key
            from {{ ref('int_event_history') }}
            where outcome in ('cancelled', 'text_only', 'interaction')
        )
)

select *
from accepted, of_bots
where accepted.n_duplicates <> accepted.n_rows - accepted.n_events + of_bots.n_events
