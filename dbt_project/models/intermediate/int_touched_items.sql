{{ config(post_hook="{{ remember_touched() }}") }}
with items as (
    select item_id from {{ ref('int_items_unioned') }}
    where reason is null
    union
    select item_id
    from {{ source('lake', 'int_item_history') }}
    where
        outcome <> 'rejected'
        and arrival_hour in (select arrival_hour from {{ ref('int_item_batches') }})
    union
    -- Their first event may have changed.
    select item_id from {{ ref('int_events_in_scope') }}
    union
    select item_id
    from {{ source('lake', 'int_event_history') }}
    where
        event_key is not null
        and (
            arrival_hour in (select arrival_hour from {{ ref('int_event_batches') }})
            or user_id in (select user_id from {{ ref('int_touched_users') }})
        )
    union
    select item_id from {{ source('touched', 'int_touched_items') }}
)

select item_id
from items
where item_id is not null
