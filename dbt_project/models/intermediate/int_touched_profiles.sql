{{ config(post_hook="{{ remember_touched() }}") }}
with users as (
    select user_id from {{ ref('int_touched_users') }}
    union
    select user_id from {{ ref('int_users_unioned') }}
    where reason is null
    union
    select user_id
    from {{ source('lake', 'int_user_history') }}
    where
        outcome <> 'rejected'
        and arrival_hour in (select arrival_hour from {{ ref('int_user_batches') }})
    union
    select user_id from {{ source('touched', 'int_touched_profiles') }}
)

select user_id
from users
